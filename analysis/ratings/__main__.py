"""`python -m analysis.ratings`."""

from analysis.ratings.ratings import main

main()
