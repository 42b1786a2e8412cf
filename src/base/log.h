/* Diagnostics on stderr, one line each: time, level, module, text. Any thread. Log once, where the error is handled. */
#pragma once
enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
void log_set_level(enum log_level min); /* default LOG_INFO; KLIEG_LOG=debug|info|warn|error at start */
void log_write(enum log_level level, const char *module, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
#define log_debug(m, ...) log_write(LOG_DEBUG, m, __VA_ARGS__)
#define log_info(m, ...) log_write(LOG_INFO, m, __VA_ARGS__)
#define log_warn(m, ...) log_write(LOG_WARN, m, __VA_ARGS__)
#define log_error(m, ...) log_write(LOG_ERROR, m, __VA_ARGS__)
