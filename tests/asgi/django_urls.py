"""The pages of the Django project that the tests mount the chat in."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse  # type: ignore[import-untyped]  # has no types
from django.urls import path  # type: ignore[import-untyped]  # has no types


async def hello(request: HttpRequest) -> JsonResponse:
    return JsonResponse(["hello"], safe=False)


urlpatterns = [path("hello", hello)]
