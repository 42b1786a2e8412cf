"""One trace from nginx through the shop to PostgreSQL and back. Neither nginx nor PostgreSQL was built for it, and nothing of theirs is changed."""
import os
import re
import subprocess

import pytest
from conftest import BUILD, text_of, changed, wait_for
from test_attach_servers import free_port, needs, postgres, serve  # noqa: F401 (fixtures)

SHOP = os.path.join(BUILD, "examples", "shop")


def service(serve, up, name, *args):
	p = serve([os.path.join(SHOP, f"shop-{name}"), *args], env={**up.env, "OTEL_SERVICE_NAME": name}, stdout=subprocess.PIPE, text=True)
	return p, f"http://127.0.0.1:{re.match(r'ready port=([0-9]+)', p.stdout.readline())[1]}"


def front(serve, tmp_path, upstream):
	port = free_port()
	(tmp_path / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {tmp_path}/nginx.pid; error_log {tmp_path}/error.log;
events {{ }}
http {{
	access_log off; client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy; fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;
	server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {upstream}; }} }}
}}
""")
	path = tmp_path
	while os.geteuid() == 0 and path != path.parent and str(path).startswith("/tmp/"):
		os.chmod(path, os.stat(path).st_mode | 0o011)
		path = path.parent
	p = serve(["nginx", "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")])
	workers = lambda: [int(x) for x in open(f"/proc/{p.pid}/task/{p.pid}/children").read().split()]
	url = f"http://127.0.0.1:{port}"
	get = lambda: subprocess.run(["curl", "-sf", "-m", "20", f"{url}/cart?tenant=1&cart=5"], capture_output=True, text=True).stdout
	wait_for(lambda: len(workers()) == 1 and get())
	return workers()[0], get


@needs("nginx", "curl")
def test_one_trace_from_nginx_through_the_shop_to_postgresql(klieg_up, serve, postgres, tmp_path):  # noqa: F811
	up = klieg_up
	cart, cart_url = service(serve, up, "cart", "--db", postgres.uri)
	gateway, gateway_url = service(serve, up, "gateway", "--cart", cart_url)
	worker, get = front(serve, tmp_path, gateway_url)
	plain = get()
	assert '"total"' in plain
	before = {pid: text_of(pid) for pid in (worker, postgres.postmaster)}
	up.attach(worker, "--plugin", "nginx")
	up.attach(postgres.postmaster, "--plugin", "postgres")
	backends = [int(x) for x in postgres.sql("select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()").split()]
	for pid in backends:  # they were there first
		before[pid] = text_of(pid)
		up.attach(pid, "--plugin", "postgres")
	up.attach(cart.pid, "--plugin", "pq:sqlcommenter=on")
	for selector in ("nginx:nginx.*", "gateway:GET*", "gateway:http*", "cart:GET*", "cart:cart.*", "cart:db.*", "cart:pq.*", "postgres:postgres.*"):
		up.cli("on", selector, "--level", "detail", "--ttl", "5m", check=False)

	def whole():
		assert get() == plain
		for s in up.get("/spans?since=1m&limit=50&q=" + "%7B%20name%20%3D%20%22nginx.request%22%20%7D")["spans"]:
			t = up.get(f"/traces/{s['trace_id']}")["spans"]
			if {"nginx", "gateway", "cart", "postgres"} <= {x["service"] for x in t}:
				return t
		return None
	t = wait_for(whole)
	by_id = {x["span_id"]: x for x in t}

	def ancestors(x):
		path = []
		while x:
			path.append((x["service"], x["name"]))
			x = by_id.get(x.get("parent_span_id"))
		return path
	query = next(x for x in t if x["service"] == "postgres" and x["name"] == "postgres.query")
	path = [service for service, _ in ancestors(query)]
	assert path[-1] == "nginx" and [s for i, s in enumerate(path) if not i or path[i - 1] != s] == ["postgres", "cart", "gateway", "nginx"], ancestors(query)
	root = next(x for x in t if not x.get("parent_span_id"))
	assert root["name"] == "nginx.request" and query["start_unix_nano"] >= root["start_unix_nano"]
	up.all_off()
	for pid in (worker, postgres.postmaster, *backends):
		up.detach(pid)
		assert not changed(before[pid], pid)
	assert get() == plain
