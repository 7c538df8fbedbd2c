"""Texts written for this project, which any text bundle may carry as golden inputs.

Of every kind a service meets: short and long, one word, no word a vocabulary knows, marks, other
scripts, digits, line breaks.
"""

GOLDEN_TEXTS = (
    "hello",
    "How do I reset my password?",
    "The parcel was meant to come on Tuesday, but nobody rang the bell.",
    "please book a table for two at seven and tell the kitchen that one of us eats no nuts",
    "zxqj vbnkw pltrz",
    "?!... --- ;;",
    "3.14159 2718 42",
    "Ünïcödé, naïve café, straße, żółw",
    "Привет, мир! こんにちは、世界。",
    "First line\nsecond line\tand a tab   and many   spaces",
    "A council met on Monday to decide whether the old bridge should be repaired or replaced. "
    "Engineers had measured the cracks in its pillars twice, in spring and again in autumn, and "
    "found that they had grown by the width of a finger. Repair would cost less this year and more "
    "in ten years; a new bridge would close the road through the valley for two summers. Farmers "
    "spoke for the repair, the school and the hospital for the new bridge, and the mayor said that "
    "she would vote last.",
)
