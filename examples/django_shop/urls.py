"""The shop and the admin."""

from django.contrib import admin
from django.urls import path

from django_shop.shop import views

urlpatterns = [
    path("", views.shop),
    path("orders/", views.orders),
    path("admin/", admin.site.urls),
]
