"""The web page of ``ullava serve``: gradio on top of the same service that the HTTP routes ask."""
