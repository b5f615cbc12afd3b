"""Orders and invoices; the dead events are there by themselves."""

from django.contrib import admin

from django_shop.shop.models import Invoice, Order

admin.site.register([Order, Invoice])
