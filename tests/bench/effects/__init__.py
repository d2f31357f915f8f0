"""`make effects`: what each method gives at each label budget, on digits in both directions."""
