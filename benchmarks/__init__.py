"""What idemodels and the public peers make of the same equations. Not part of the package."""
