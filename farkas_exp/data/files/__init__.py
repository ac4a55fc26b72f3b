"""Image files: one lister and one decoder, for data sets in memory and streamed; decoding imports no torch."""
