# Klieg's two commands are `make run` and `make test`; the rest is for those who work on it. docs/developing.md says more.
#   make               build/klieg and build/libklieg.so
#   make run           set up, build, start everything with the example shop under load, guided tour; Ctrl-C ends it
#   make run ONCE=1    the same, but exits after the tour (non-zero if any step of it did not happen)
#   make test [T=name] all tests, or those whose name contains T; last line: N passed, N failed
#   make bench         every figure beside its peer or floor -> bench/RESULTS.md
#   make install PREFIX=/usr/local [DESTDIR=]
#   make SAN=address,undefined | SAN=thread   builds in build-SAN instead
comma  := ,
BUILD  := build$(if $(SAN),-$(subst $(comma),-,$(SAN)))

PREFIX ?= /usr/local
BUILDTYPE ?= $(if $(SAN),debugoptimized,release)
SHELL  := /bin/bash

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) $(if $(V),-v,--quiet)
	@[ ! -e $(BUILD)/src/klieg ] || ln -f $(BUILD)/src/klieg $(BUILD)/klieg
	@lib=$$(readlink -f $(BUILD)/src/probe/libklieg.so) && ln -f "$$lib" $(BUILD)/libklieg.so && ln -f "$$lib" $(BUILD)/libklieg.so.0

$(BUILD)/build.ninja: tools/packages.txt tools/setup
	@tools/setup build
	@meson setup $(BUILD) $(if $(wildcard $(BUILD)/build.ninja),--reconfigure) --prefix=$(PREFIX) --buildtype=$(BUILDTYPE) \
		$(if $(SAN),-Db_sanitize=$(SAN) -Db_lundef=false) >$(BUILD).setup.log 2>&1 || { cat $(BUILD).setup.log; exit 1; }
	@mv $(BUILD).setup.log $(BUILD)/setup.log && touch $@

run: all
	@tools/setup run
	@tools/tour $(if $(ONCE),--once)

test: all
	@tools/setup test
	@tools/run-tests $(if $(T),--only '$(T)') $(if $(SAN),--build $(BUILD))

bench: all
	@tools/setup bench
	@bench/run

install: all
	@meson configure $(BUILD) --prefix=$(PREFIX)
	@ninja -C $(BUILD) --quiet
	@meson install -C $(BUILD) --no-rebuild $(if $(DESTDIR),--destdir $(DESTDIR))

clean:
	rm -rf build build-* web/node_modules tests/flow/js/node_modules bench/out

.PHONY: all run test bench install clean
