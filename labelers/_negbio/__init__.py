"""What the labeler "negbio" is made of: parses turned into the graphs that NegBio's patterns search, and the installed NegBio."""
