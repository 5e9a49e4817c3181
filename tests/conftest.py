"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# A machine with other work is no defect. What hangs is ended by pytest-timeout.
settings.register_profile("headgate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headgate")
