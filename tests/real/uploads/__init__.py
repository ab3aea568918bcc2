"""Uploads to real servers, under options that have somebody look for the departure of the client."""
