"""Knowledge shipped inside the package: vocabularies and cues, each file with its source in its head."""
