"""What the three modules share inside Slicer; imports neither torch nor the engine."""
