"""The pages of the Django project that the tests mount the chat in."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse  # type: ignore[import-untyped]  # has no types
from django.urls import path  # type: ignore[import-untyped]  # has no types


async def hello(request: HttpRequest) -> JsonResponse:
    return JsonResponse(["hello"], safe=False)


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{request.method} {request.get_full_path()} {len(request.body)}", content_type="text/plain")


urlpatterns = [path("hello", hello), path("page", page)]
