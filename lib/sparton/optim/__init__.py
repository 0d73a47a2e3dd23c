"""How training moves: schedules of the step, as pure functions."""
