"""What a bundle does on its device: ``python3 -m run``. Python 3.8, its standard library, and for the model itself numpy and the runtime."""
