"""The one page, and its table."""

from django import forms
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from django_shop.shop.models import Order
from django_shop.shop.orders import place_order


class OrderForm(forms.ModelForm):
    """What a customer says."""

    class Meta:
        model = Order
        fields = ("customer", "total")


def shop(request: HttpRequest) -> HttpResponse:
    """The page; POST places an order."""
    form = OrderForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        place_order(**form.cleaned_data)
        return redirect("/")
    return render(request, "shop.html", {"form": form, "orders": newest()})


def orders(request: HttpRequest) -> HttpResponse:
    """The rows of the table, which the page asks for every second."""
    return render(request, "orders.html", {"orders": newest()})


def newest() -> object:
    """The newest orders, and how many invoices each has."""
    return Order.objects.annotate(written=Count("invoices")).order_by("-pk")[:20]
