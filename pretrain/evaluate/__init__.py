"""Evaluation of encoders: features of labelled images, and classifiers on them."""
