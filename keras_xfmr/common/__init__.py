"""What every room may import: checks of plain values, files."""
