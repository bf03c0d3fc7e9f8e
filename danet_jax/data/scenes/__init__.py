"""Street scenes drawn by numpy and OpenCV: a data set that needs no download."""
