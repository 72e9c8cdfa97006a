"""Cascade: students first, the teacher where it is worth its price. Pure: recordings and live models drive it alike."""
