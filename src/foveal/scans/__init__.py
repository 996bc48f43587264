"""Reading what clinics have, and finding the eye in it."""
