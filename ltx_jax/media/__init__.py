"""Decoding and encoding of video, audio and images; numpy in and out."""
