"""A shop in Django: orders and their events in one transaction, invoices by a consumer."""
