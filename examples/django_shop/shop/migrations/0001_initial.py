"""The models, and the table in which the consumer remembers what it has done."""

import django.core.validators
import django.db.models.deletion
from dispatcher.client.django import create_table
from django.db import migrations, models


def make(apps, schema_editor):
    """Make handled_event, for first_time."""
    create_table(using=schema_editor.connection.alias)


class Migration(migrations.Migration):
    initial = True

    operations = [
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("customer", models.CharField(max_length=200)),
                (
                    "total",
                    models.DecimalField(
                        decimal_places=2, max_digits=10, validators=[django.core.validators.MinValueValidator(0)]
                    ),
                ),
                ("placed_at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            name="Invoice",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("total", models.DecimalField(decimal_places=2, max_digits=10)),
                ("written_at", models.DateTimeField(auto_now_add=True)),
                (
                    "order",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="invoices", to="shop.order"
                    ),
                ),
            ],
        ),
        migrations.RunPython(make, migrations.RunPython.noop),
    ]
