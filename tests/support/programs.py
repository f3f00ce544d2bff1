"""Programs that some tests run and a machine may lack; `make ci` fetches them."""

import shutil

import pytest

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/sbin")
"""Where it is, also for users whose PATH leaves out what root's has."""

needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not on PATH (Debian: apt-get install nginx)")
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not on PATH (Debian: apt-get install prometheus)"
)
