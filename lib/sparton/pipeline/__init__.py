"""The stages: pure functions of (settings, input folders) to a published output folder."""
