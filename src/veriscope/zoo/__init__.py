"""Beds: models and data whose truth is known by construction. One file or folder a bed; importing this loads none."""
