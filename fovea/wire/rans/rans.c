/* rANS over L interleaved states, the stream of fovea/wire/rans: native_coder.py loads this library with ctypes.
 *
 * Plain C99 without Python.h: one build serves every Python, and ctypes releases the interpreter lock during a call.
 *
 * The caller vouches for the tables (frequencies of at least 1 that sum up to 2^14 in each table) and for the lengths of the
 * buffers, and never for what the buffers hold: indices and streams are checked here.
 */

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#define SHIFT 14
#define TOTAL (1u << SHIFT)
#define MIN_STATE (1u << 16)

/* Results below 0; native_coder.py has the same. */
#define OUTSIDE_TABLES (-1)
#define ENDS_TOO_EARLY (-2)
#define NOT_EXACT (-3)

typedef struct {
    uint32_t start;
    uint32_t frequency;
} range_t;

/* Writes n symbols in reverse order. `words` fills from its end, which puts the words in the order of decoding.
 *
 * ranges: start and frequency of each symbol, [num_tables, num_symbols].
 * states: [num_states], a power of two; the final states are written here.
 * words: room for n little-endian words of 2 bytes; a symbol writes at most one.
 * Returns the number of words, or OUTSIDE_TABLES.
 */
EXPORT int64_t fovea_rans_encode(const uint8_t *symbols, const uint8_t *tables, int64_t n, const range_t *ranges,
                                 int64_t num_tables, int64_t num_symbols, uint32_t *states, int64_t num_states,
                                 uint8_t *words)
{
    uint8_t *word = words + 2 * n;
    for (int64_t i = 0; i < num_states; i++)
        states[i] = MIN_STATE;
    for (int64_t i = n - 1; i >= 0; i--) {
        if (tables[i] >= num_tables || symbols[i] >= num_symbols)
            return OUTSIDE_TABLES;
        const range_t range = ranges[tables[i] * num_symbols + symbols[i]];
        uint32_t state = states[i & (num_states - 1)];
        /* In 64 bits: the limit of a frequency of 2^14 is 2^32. */
        if (state >= (uint64_t)range.frequency << (32 - SHIFT)) {
            *--word = (uint8_t)(state >> 8);
            *--word = (uint8_t)state;
            state >>= 16;
        }
        states[i & (num_states - 1)] =
            (state / range.frequency << SHIFT) + state % range.frequency + range.start;
    }
    return (words + 2 * n - word) / 2;
}

static uint32_t little_endian(const uint8_t *bytes, int count)
{
    uint32_t value = 0;
    for (int i = 0; i < count; i++)
        value |= (uint32_t)bytes[i] << (8 * i);
    return value;
}

/* Reads n symbols from a stream of `num_states` states and `num_words` words.
 *
 * slots: symbol of each slot of each table, [num_tables, TOTAL]; each below num_symbols.
 * states: [num_states], a power of two; scratch.
 * symbols: [n], written here.
 * Returns 0, or OUTSIDE_TABLES, ENDS_TOO_EARLY, NOT_EXACT.
 */
EXPORT int64_t fovea_rans_decode(const uint8_t *stream, int64_t num_words, const uint8_t *tables, int64_t n,
                                 const range_t *ranges, const uint8_t *slots, int64_t num_tables,
                                 int64_t num_symbols, uint32_t *states, int64_t num_states, uint8_t *symbols)
{
    const uint8_t *word = stream + 4 * num_states;
    const uint8_t *end = word + 2 * num_words;
    for (int64_t i = 0; i < num_states; i++)
        states[i] = little_endian(stream + 4 * i, 4);
    for (int64_t i = 0; i < n; i++) {
        if (tables[i] >= num_tables)
            return OUTSIDE_TABLES;
        uint32_t state = states[i & (num_states - 1)];
        const uint32_t slot = state & (TOTAL - 1);
        const uint8_t symbol = slots[((int64_t)tables[i] << SHIFT) + slot];
        const range_t range = ranges[tables[i] * num_symbols + symbol];
        /* Below 2^32 for any state, since slot - start is below the frequency. */
        state = range.frequency * (state >> SHIFT) + slot - range.start;
        if (state < MIN_STATE) {
            if (word == end)
                return ENDS_TOO_EARLY;
            state = state << 16 | little_endian(word, 2);
            word += 2;
        }
        states[i & (num_states - 1)] = state;
        symbols[i] = symbol;
    }
    if (word != end)
        return NOT_EXACT;
    for (int64_t i = 0; i < num_states; i++)
        if (states[i] != MIN_STATE)
            return NOT_EXACT;
    return 0;
}
