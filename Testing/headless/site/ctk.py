"""`ctk`: the widgets of CTK that the panels use."""
