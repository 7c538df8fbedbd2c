"""Side-by-side measurements; each module is a program, each result a JSON under results/."""
