"""What a trained automaton is turned into: pictures, the viewer, model files."""
