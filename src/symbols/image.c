/* Reads an ELF file that may be hostile: every offset and size comes from it, so every range is checked against the file, every table
 * has a limit, and nothing is read twice. Runs in whatever thread opens the symbols; owns the bytes. */
#include "symbols/image.h"
#include "base/buf.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOADED_MAX (1ull << 30)   /* bytes of segments, and of all other pieces together */
#define SECTIONS_MAX 100000u
#define PIECES_MAX 256u
#define HEADERS_MAX 256u          /* program headers; real files have a dozen */
#define NAME_MAX_BYTES 4096u      /* a longer name is not a name; also bounds the work on tables whose strings overlap */
#define NOTE_ID_MAX 64u

struct image_piece { struct image_piece *next; uint64_t off, n; uint8_t p[]; };

static bool inside(uint64_t size, uint64_t off, uint64_t n)
{
	return off <= size && n <= size - off;
}

static bool read_full(int fd, void *to, uint64_t n, uint64_t off)
{
	uint8_t *p = to;
	while (n) {
		ssize_t got = pread(fd, p, n > 1u << 30 ? 1u << 30 : n, (off_t)off);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		p += got;
		off += (uint64_t)got;
		n -= (uint64_t)got;
	}
	return true;
}

const uint8_t *image_bytes(struct image *im, uint64_t off, uint64_t n)
{
	if (!inside(im->size, off, n))
		return NULL;
	if (inside(im->nloaded, off, n))
		return im->loaded + off;
	for (struct image_piece *p = im->pieces; p; p = p->next)
		if (off >= p->off && inside(p->n, off - p->off, n))
			return p->p + (off - p->off);
	if (n > LOADED_MAX - im->piece_bytes || im->npieces == PIECES_MAX)
		return NULL;
	struct image_piece *p = base_alloc(sizeof *p + n);
	p->off = off;
	p->n = n;
	if (!read_full(im->fd, p->p, n, off)) {
		free(p);
		return NULL;
	}
	im->piece_bytes += n;
	im->npieces++;
	p->next = im->pieces;
	im->pieces = p;
	return p->p;
}

const uint8_t *image_at(const struct image *im, uint64_t addr, uint64_t n)
{
	for (uint32_t i = 0; i < im->nph; i++) {
		const Elf64_Phdr *ph = &im->ph[i];
		if (ph->p_type != PT_LOAD || addr < ph->p_vaddr || !inside(ph->p_filesz, addr - ph->p_vaddr, n))
			continue;
		uint64_t off = ph->p_offset + (addr - ph->p_vaddr);
		if (off >= ph->p_offset && inside(im->nloaded, off, n))
			return im->loaded + off;
	}
	return NULL;
}

const char *image_string(const uint8_t *table, uint64_t n, uint64_t off)
{
	if (!table || off >= n)
		return NULL;
	uint64_t most = n - off < NAME_MAX_BYTES ? n - off : NAME_MAX_BYTES;
	return memchr(table + off, 0, most) ? (const char *)table + off : NULL;
}

const char *image_section_name(struct image *im, const Elf64_Shdr *sh)
{
	uint32_t strings = im->head.e_shstrndx == SHN_XINDEX && im->nsh ? im->sh[0].sh_link : im->head.e_shstrndx;
	if (strings >= im->nsh || im->sh[strings].sh_type == SHT_NOBITS)
		return "";
	const uint8_t *table = image_bytes(im, im->sh[strings].sh_offset, im->sh[strings].sh_size);
	const char *name = image_string(table, im->sh[strings].sh_size, sh->sh_name);
	return name ? name : "";
}

const Elf64_Shdr *image_section(struct image *im, const char *name)
{
	for (uint32_t i = 1; i < im->nsh; i++)
		if (!strcmp(image_section_name(im, &im->sh[i]), name))
			return &im->sh[i];
	return NULL;
}

/* The descriptor of the GNU build-id note in n bytes of notes. */
static const uint8_t *find_build_id(const uint8_t *p, uint64_t n, uint64_t align, uint32_t *ret_n)
{
	uint64_t pad = align == 8 ? 7 : 3;
	while (p && n >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr h;
		memcpy(&h, p, sizeof h);
		uint64_t desc = (sizeof h + (uint64_t)h.n_namesz + pad) & ~pad;
		uint64_t next = (desc + h.n_descsz + pad) & ~pad;
		if (desc + h.n_descsz > n)
			return NULL;
		if (h.n_type == NT_GNU_BUILD_ID && h.n_namesz == 4 && !memcmp(p + sizeof h, "GNU", 4) && h.n_descsz) {
			*ret_n = h.n_descsz;
			return p + desc;
		}
		if (next >= n)
			return NULL;
		p += next;
		n -= next;
	}
	return NULL;
}

void image_build_id(struct image *im, char ret_hex[2 * 64 + 1])
{
	uint32_t n = 0;
	const uint8_t *id = NULL;
	for (uint32_t i = 0; i < im->nph && !id && im->nloaded; i++)
		if (im->ph[i].p_type == PT_NOTE)
			id = find_build_id(image_bytes(im, im->ph[i].p_offset, im->ph[i].p_filesz), im->ph[i].p_filesz, im->ph[i].p_align, &n);
	for (uint32_t i = 1; i < im->nsh && !id; i++)
		if (im->sh[i].sh_type == SHT_NOTE)
			id = find_build_id(image_bytes(im, im->sh[i].sh_offset, im->sh[i].sh_size), im->sh[i].sh_size, im->sh[i].sh_addralign, &n);
	if (n > NOTE_ID_MAX)
		n = NOTE_ID_MAX;
	for (uint32_t i = 0; i < n; i++) {
		static const char digits[] = "0123456789abcdef";
		ret_hex[2 * i] = digits[id[i] >> 4];
		ret_hex[2 * i + 1] = digits[id[i] & 15];
	}
	ret_hex[2 * n] = 0;
}

static int check_head(const Elf64_Ehdr *h, struct err *e)
{
	if (memcmp(h->e_ident, ELFMAG, SELFMAG))
		return err_set(e, KLIEG_E_BAD_DATA, "not an ELF file");
	if (h->e_ident[EI_CLASS] != ELFCLASS64 || h->e_ident[EI_DATA] != ELFDATA2LSB)
		return err_set(e, KLIEG_E_UNSUPPORTED, "a %s-bit %s-endian ELF file: only 64-bit little-endian ones can be read",
			h->e_ident[EI_CLASS] == ELFCLASS32 ? "32" : "64", h->e_ident[EI_DATA] == ELFDATA2MSB ? "big" : "little");
	if (h->e_type != ET_EXEC && h->e_type != ET_DYN)
		return err_set(e, KLIEG_E_BAD_DATA, "an ELF file, but neither an executable nor a shared library");
	if (h->e_phentsize != sizeof(Elf64_Phdr) && h->e_phnum)
		return err_set(e, KLIEG_E_BAD_DATA, "its program headers have an impossible size");
	if (h->e_phnum > HEADERS_MAX)
		return err_set(e, KLIEG_E_LIMIT, "it has %u program headers: more than %u are not read", h->e_phnum, HEADERS_MAX);
	return 0;
}

/* Section headers are a convenience: a file whose headers are damaged or gone still has its segments. */
static void read_sections(struct image *im)
{
	const Elf64_Ehdr *h = &im->head;
	uint64_t n = h->e_shnum;
	Elf64_Shdr first;
	if (!h->e_shoff || h->e_shentsize != sizeof(Elf64_Shdr) || !inside(im->size, h->e_shoff, sizeof first))
		return;
	if (!n && read_full(im->fd, &first, sizeof first, h->e_shoff))
		n = first.sh_size; /* more than fit into the header */
	if (!n || n > SECTIONS_MAX || !inside(im->size, h->e_shoff, n * sizeof *im->sh))
		return;
	Elf64_Shdr *sh = base_alloc(n * sizeof *sh);
	if (!read_full(im->fd, sh, n * sizeof *sh, h->e_shoff)) {
		free(sh);
		return;
	}
	im->sh = sh;
	im->nsh = (uint32_t)n;
}

static int read_segments(struct image *im, struct err *e)
{
	uint64_t end = 0, sum = 0;
	for (uint32_t i = 0; i < im->nph; i++) {
		const Elf64_Phdr *ph = &im->ph[i];
		if (ph->p_type != PT_LOAD || !ph->p_filesz)
			continue;
		if (!inside(im->size, ph->p_offset, ph->p_filesz))
			return err_set(e, KLIEG_E_BAD_DATA, "a segment lies beyond the end of the file: it is damaged or was truncated");
		sum += ph->p_filesz;
		if (sum > 2 * im->size) /* so that the work on all of them is bounded by the file */
			return err_set(e, KLIEG_E_BAD_DATA, "its segments overlap");
		if (ph->p_offset + ph->p_filesz > end)
			end = ph->p_offset + ph->p_filesz;
	}
	if (!end)
		return err_set(e, KLIEG_E_BAD_DATA, "it has no segments to load");
	if (end > LOADED_MAX)
		return err_set(e, KLIEG_E_LIMIT, "its segments take %llu MiB: more than %llu are not read", (unsigned long long)(end >> 20), LOADED_MAX >> 20);
	im->loaded = base_alloc(end);
	if (!read_full(im->fd, im->loaded, end, 0))
		return err_set(e, KLIEG_E_IO, "it cannot be read: %s", errno ? strerror(errno) : "it became shorter");
	im->nloaded = end;
	return 0;
}

int image_open(int fd, bool with_segments, struct image *ret_im, struct err *e)
{
	struct image im = { .fd = fd };
	struct stat st;
	if (fstat(fd, &st) < 0)
		return err_set(e, err_from_errno(errno), "%s", strerror(errno));
	if (!S_ISREG(st.st_mode))
		return err_set(e, KLIEG_E_BAD_DATA, "not a regular file");
	im.size = (uint64_t)st.st_size;
	errno = 0;
	if (im.size < sizeof im.head || !read_full(fd, &im.head, sizeof im.head, 0))
		return err_set(e, KLIEG_E_BAD_DATA, "not an ELF file");
	int rc = check_head(&im.head, e);
	if (rc < 0)
		return rc;
	uint64_t n = im.head.e_phnum;
	if (!inside(im.size, im.head.e_phoff, n * sizeof *im.ph))
		return err_set(e, KLIEG_E_BAD_DATA, "its program headers lie beyond the end of the file");
	im.ph = base_alloc(n * sizeof *im.ph + 1);
	im.nph = (uint32_t)n;
	if (!read_full(fd, im.ph, n * sizeof *im.ph, im.head.e_phoff))
		rc = err_set(e, KLIEG_E_IO, "its program headers cannot be read");
	if (rc >= 0 && with_segments)
		rc = read_segments(&im, e);
	if (rc < 0) {
		image_finish(&im);
		return rc;
	}
	read_sections(&im);
	*ret_im = im;
	return 0;
}

void image_finish(struct image *im)
{
	for (struct image_piece *p = im->pieces, *next; p; p = next) {
		next = p->next;
		free(p);
	}
	free(im->loaded);
	free(im->ph);
	free(im->sh);
	*im = (struct image){ .fd = -1 };
}
