"""The rooms of the phantom: who is ill (cases), how it looks (anatomy, lesions, picture), what is said of it (reports, coders)."""
