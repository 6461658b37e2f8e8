"""Found in front of the real pip where PYTHONPATH names the folder above."""
