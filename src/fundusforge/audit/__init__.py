"""The privacy audit: memorised images, membership, and the release gate."""
