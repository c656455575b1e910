"""What a run tells: its folder, losses, evaluation on the way, plots, bad samples."""
