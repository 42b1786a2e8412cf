/* The plugins of HTTP and TLS against the real libraries: libcurl asks libmicrohttpd, and the trace goes along; OpenSSL shakes hands with itself. */
#define KLIEG_COMPONENT "plugin_http"
#include "klieg/klieg.h"
#include "plugin_harness.h"
#include "wire/plugin_area.h"
#include <curl/curl.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <sys/socket.h>

static void some_site(void) { KLIEG_SPAN("some"); }

static struct kw_hook handler_hook, queue_hook;
static char got_traceparent[80], got_own[80];
static pid_t server_tid;
static uint64_t answer(void *cls, struct MHD_Connection *c, const char *url, const char *method, const char *version, const char *data, size_t *n, void **con_cls)
{
	static int first;
	(void)cls, (void)method, (void)version, (void)data, (void)n;
	server_tid = gettid();
	if (!*con_cls) { /* the headers are there; the library comes again for the body */
		*con_cls = &first;
		return MHD_YES;
	}
	const char *h = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "traceparent");
	snprintf(got_traceparent, sizeof got_traceparent, "%s", h ? h : "");
	h = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "X-Own");
	snprintf(got_own, sizeof got_own, "%s", h ? h : "");
	struct MHD_Response *r = MHD_create_response_from_buffer(5, (void *)"hello", MHD_RESPMEM_PERSISTENT);
	uint64_t rc = CALL(&queue_hook, MHD_queue_response, U(c), !strcmp(url, "/boom") ? 500 : 200, U(r));
	MHD_destroy_response(r);
	return rc;
}

static enum MHD_Result entry(void *cls, struct MHD_Connection *c, const char *url, const char *method, const char *version, const char *data, size_t *n, void **con_cls)
{
	return (enum MHD_Result)CALL(&handler_hook, answer, U(cls), U(c), U(url), U(method), U(version), U(data), U(n), U(con_cls));
}

static size_t swallow(char *p, size_t size, size_t n, void *arg)
{
	(void)p, (void)arg;
	return size * n;
}

static void http(void **state)
{
	struct MHD_Daemon *d = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, entry, NULL, MHD_OPTION_SOCK_ADDR,
		&(struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) }, MHD_OPTION_END);
	assert_non_null(d);
	use_plugin("microhttpd", KLIEG_LEVEL_DETAIL);
	assert_null(P.plugin->unfit);
	handler_hook = *hook_named("handler");
	queue_hook = *hook_named("MHD_queue_response");
	use_plugin("curl", KLIEG_LEVEL_DETAIL);
	assert_null(P.plugin->unfit);
	look();
	char url[128];
	int port = MHD_get_daemon_info(d, MHD_DAEMON_INFO_BIND_PORT)->port;
	CURL *h = curl_easy_init();
	struct curl_slist *own = curl_slist_append(NULL, "X-Own: kept");
	for (int round = 0; round < 3; round++) {
		bool boom = round == 1;
		snprintf(url, sizeof url, "http://user:secret@127.0.0.1:%d/%s?card=4111", port, boom ? "boom" : "fine");
		curl_easy_setopt(h, CURLOPT_URL, url);
		curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, swallow);
		curl_easy_setopt(h, CURLOPT_HTTPHEADER, round < 2 ? own : NULL);
		assert_int_equal(CALL(hook_named("curl_easy_perform"), curl_easy_perform, U(h)), CURLE_OK);
		look();
		assert_int_equal(nseen, 1);
		struct seen_span client = seen[0];
		assert_text(&client, "http.request.method", "GET");
		assert_number(&client, "http.response.status_code", boom ? 500 : 200);
		assert_text(&client, "server.address", "127.0.0.1");
		assert_number(&client, "server.port", port);
		snprintf(url, sizeof url, "http://127.0.0.1:%d/%s", port, boom ? "boom" : "fine");
		assert_text(&client, "url.full", url);
		assert_true(client.error == boom);
		assert_string_equal(got_own, round < 2 ? "kept" : ""); /* with the program's own headers beside it */
		char want[64];
		snprintf(want, sizeof want, "00-%016lx%016lx-%016lx-03", client.trace_hi, client.trace_lo, client.id);
		assert_string_equal(got_traceparent, want);
		for (nseen = 0; !nseen;) /* the server's thread writes its span after it has answered */
			look_at(server_tid);
		struct seen_span *s = span_of_hook(&handler_hook);
		while (!s) {
			look_at(server_tid);
			s = span_of_hook(&handler_hook);
		}
		assert_int_equal(s->trace_lo, client.trace_lo);
		assert_int_equal(s->parent, client.id);
		assert_text(s, "http.request.method", "GET");
		assert_text(s, "url.path", boom ? "/boom" : "/fine");
		assert_number(s, "http.response.status_code", boom ? 500 : 200);
		assert_text(s, "client.address", "127.0.0.1");
		assert_true(s->error == boom);
	}
	/* without the plugin's hook the handle is as the program left it */
	curl_easy_setopt(h, CURLOPT_HTTPHEADER, own);
	CALL(hook_named("curl_easy_perform"), curl_easy_perform, U(h));
	assert_int_equal(curl_easy_perform(h), CURLE_OK);
	assert_string_equal(got_traceparent, "");
	assert_string_equal(got_own, "kept");
	/* an error of the transport */
	look();
	curl_easy_setopt(h, CURLOPT_URL, "http://127.0.0.1:1/");
	assert_int_equal(CALL(hook_named("curl_easy_perform"), curl_easy_perform, U(h)), CURLE_COULDNT_CONNECT);
	look();
	assert_true(seen[0].error && *seen[0].status);
	curl_easy_cleanup(h);
	curl_slist_free_all(own);
	MHD_stop_daemon(d);
	struct kw_plugin_area *a = (struct kw_plugin_area *)((char *)klieg__plugin_host() + KW_PLUGIN_AREA);
	bool told = false;
	for (uint32_t i = 0; i < a->notes_n; i++)
		told |= !strcmp(a->notes[i].plugin, "microhttpd") && strstr(a->notes[i].text, "test_plugin_http+0x");
	assert_true(told); /* where the access handler is */
}

static SSL_CTX *server_context(void)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *crt = X509_new();
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	X509_gmtime_adj(X509_getm_notBefore(crt), 0);
	X509_gmtime_adj(X509_getm_notAfter(crt), 3600);
	X509_set_pubkey(crt, key);
	assert_true(X509_sign(crt, key, EVP_sha256()) > 0);
	assert_int_equal(SSL_CTX_use_certificate(ctx, crt), 1);
	assert_int_equal(SSL_CTX_use_PrivateKey(ctx, key), 1);
	X509_free(crt);
	EVP_PKEY_free(key);
	return ctx;
}

static void *serve(void *ssl)
{
	return SSL_accept(ssl) == 1 ? ssl : NULL;
}

static void tls(void **state)
{
	use_plugin("openssl", KLIEG_LEVEL_DETAIL);
	assert_null(P.plugin->unfit);
	const struct kw_hook *h = hook_named("SSL_do_handshake");
	SSL_CTX *sc = server_context(), *cc = SSL_CTX_new(TLS_client_method());
	int fd[2];
	pthread_t t;
	look();
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	SSL *s = SSL_new(sc), *c = SSL_new(cc);
	SSL_set_fd(s, fd[0]);
	SSL_set_fd(c, fd[1]);
	SSL_set_tlsext_host_name(c, "shop.example");
	SSL_set_connect_state(c);
	pthread_create(&t, NULL, serve, s);
	assert_int_equal(CALL(h, SSL_do_handshake, U(c)), 1);
	void *ok;
	pthread_join(t, &ok);
	assert_non_null(ok);
	SSL_free(s), SSL_free(c), close(fd[0]), close(fd[1]);
	/* the other side speaks something else */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	assert_int_equal(write(fd[0], "HTTP/1.1 400 no\r\n\r\n", 19), 19);
	c = SSL_new(cc);
	SSL_set_fd(c, fd[1]);
	SSL_set_connect_state(c);
	assert_int_equal((int)CALL(h, SSL_do_handshake, U(c)), -1);
	assert_int_equal(SSL_get_error(c, -1), SSL_ERROR_SSL); /* the program still finds its error */
	assert_true(ERR_peek_error() != 0);
	SSL_free(c), close(fd[0]), close(fd[1]);
	SSL_CTX_free(sc), SSL_CTX_free(cc);
	look();
	assert_int_equal(nseen, 2);
	assert_text(&seen[0], "tls.protocol.version", "TLSv1.3");
	assert_text(&seen[0], "tls.server_name", "shop.example");
	assert_text(&seen[0], "tls.role", "client");
	assert_true(seen[1].error && !seen[0].error);
}

static int start(void **state)
{
	(void)state;
	some_site();
	harness_find();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(http), cmocka_unit_test(tls) };
	return cmocka_run_group_tests(tests, start, NULL);
}
