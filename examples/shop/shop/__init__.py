"""A shop: orders over HTTP, an event for each, a worker that writes the invoices."""
