"""What a round of growth decides: how deep, how wide, and which morphisms."""
