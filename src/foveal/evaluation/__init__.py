"""What measurements and models are worth on a whole data set: comparisons of cohorts."""
