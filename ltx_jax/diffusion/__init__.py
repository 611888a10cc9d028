"""The mathematics of noise: geometry, schedules, steppers, guidance, objectives."""
