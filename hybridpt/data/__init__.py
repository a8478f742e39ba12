"""Manifests, images and label tables to batches; one file per data set."""
