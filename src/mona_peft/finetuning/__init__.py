"""The application: data, training, evaluation and studies around the tuners. It needs the extra [train]."""
