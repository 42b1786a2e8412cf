// C++ exceptions through hooked frames: cleanups on the way, rethrown, nested, kept, caught by base, thrown from where a tail call came from.
#include "target.h"
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

static uint64_t cleaned;
struct Cleaner {
	uint64_t id;
	explicit Cleaner(uint64_t i) : id(i) {}
	~Cleaner() { cleaned = mix(cleaned, id); }
};

HOOKED int thrower(int kind, int depth)
{
	COUNTED(thrower);
	Cleaner c(1000 + (uint64_t)depth);
	if (depth) {
		int r = thrower(kind, depth - 1);
		AFTER_CALL(r);
		return r + 1;
	}
	switch (kind) {
	case 1: throw std::runtime_error("one");
	case 2: throw std::logic_error("two");
	case 3: throw 3;
	case 4: throw std::string("four");
	}
	return 0;
}

HOOKED int catches_some(int kind)
{
	COUNTED(catches_some);
	Cleaner c(2);
	try {
		return thrower(kind, 3);
	} catch (std::logic_error &e) {
		cleaned = mix(cleaned, (uint64_t)e.what()[0]);
		return -1;
	}
}

HOOKED int rethrows(int kind)
{
	COUNTED(rethrows);
	Cleaner c(3);
	try {
		return catches_some(kind);
	} catch (...) {
		Cleaner inside(4);
		throw;
	}
}

HOOKED int replaces(int kind)
{
	COUNTED(replaces);
	try {
		return rethrows(kind);
	} catch (std::runtime_error &e) {
		std::throw_with_nested(std::out_of_range(std::string("nested ") + e.what()));
	}
}

struct Thing {
	uint64_t v;
	explicit Thing(uint64_t x);
};
HOOKED uint64_t checked(uint64_t x)
{
	COUNTED(checked);
	if (x % 3 == 0)
		throw std::invalid_argument("divisible");
	return x;
}
Thing::Thing(uint64_t x) : v(checked(x)) {}

// An exception while a vector is half built, one kept for later, and one thrown inside a destructor's own try.
HOOKED uint64_t collects(uint64_t n)
{
	COUNTED(collects);
	std::exception_ptr kept;
	uint64_t h = 0;
	try {
		std::vector<std::unique_ptr<Thing>> things;
		for (uint64_t i = 1;; i++)
			things.push_back(std::make_unique<Thing>(n + i));
	} catch (...) {
		kept = std::current_exception();
	}
	try {
		std::rethrow_exception(kept);
	} catch (std::exception &e) {
		h = mix(h, strlen(e.what()));
	}
	return h;
}

static uint64_t go(long rounds)
{
	uint64_t h = 0;
	cleaned = 0;
	for (long i = 0; i < rounds; i++) {
		try {
			h = mix(h, (uint64_t)replaces(int(i % 5)));
		} catch (std::out_of_range &e) {
			h = mix(h, strlen(e.what()));
			try {
				std::rethrow_if_nested(e);
			} catch (std::exception &inner) {
				h = mix(h, (uint64_t)inner.what()[0]);
			}
		} catch (std::string &s) {
			h = mix(h, s.size());
		} catch (int x) {
			h = mix(h, (uint64_t)x);
		}
		h = mix(h, collects((uint64_t)i));
	}
	return mix(h, cleaned);
}

int main() { return target_loop(go, nullptr); }
