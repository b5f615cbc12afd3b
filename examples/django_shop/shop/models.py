"""Orders and their invoices."""

from django.core.validators import MinValueValidator
from django.db import models


class Order(models.Model):
    """What somebody bought."""

    customer = models.CharField(max_length=200)
    total = models.DecimalField(max_digits=10, decimal_places=2, validators=[MinValueValidator(0)])
    placed_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"order {self.pk} of {self.customer}"


class Invoice(models.Model):
    """Written by the consumer, once for each order."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="invoices")
    total = models.DecimalField(max_digits=10, decimal_places=2)
    written_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"invoice of order {self.order_id}"
