"""oodscore-train advise: which detectors of a bundle are worth their price, and what to expect.

gather     inputs -> scores: held-out ID, proxies made of it, outliers, production
prices     what each detector costs, measured on the bundle's own graphs
choice     which are as good as the best, which rank alike, which one should decide
mixture    how much OOD unlabelled inputs hold, at least
study      all of it for one bundle -> Advice (records)
words, picture, page    Advice for people
"""
