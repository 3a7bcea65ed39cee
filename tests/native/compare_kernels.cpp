// Compares every available kernel with the plain one, for CPUs on which Python is not available: `make test-long`
// runs it in an emulator of 64-bit ARM. A row must give the same bits alone and together with others, and the states
// inside a pass those of a shorter pass.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "numbers.h"
#include "plan.h"

using namespace wkv;

extern "C" int wkv_product(const char* kernels, int format, int layout, int outputs, int inputs,
                           const void* weights, int rows, const float* x, float* y, int threads);

typedef std::vector<float> Numbers;

static std::mt19937 generator(0);
static bool failed = false;

static Numbers random_numbers(size_t n, float size = 1) {
    std::normal_distribution<float> normal(0, size);
    Numbers numbers(n);
    for (float& number : numbers) number = normal(generator);
    return numbers;
}

static void expect_close(const Numbers& found, const Numbers& right, double bound, const std::string& what) {
    double largest = 1e-30, difference = 0;
    for (size_t i = 0; i < right.size(); i++) {
        largest = fmax(largest, fabs(right[i]));
        const double here = fabs((double)found[i] - right[i]);
        if (!(here <= difference)) difference = here;
    }
    if (difference <= bound * largest) return;
    printf("%s: differs by %.2e\n", what.c_str(), difference / largest);
    failed = true;
}

// Random weights in a layout; their order does not matter here.
static std::vector<uint8_t> random_weights(Format format, Layout layout, int outputs, int inputs) {
    const int height = layout == ROWS ? 1 : layout == BLOCKS ? BLOCK : PANEL;
    const size_t tall = (outputs + height - 1) / height, groups = (inputs + GROUP - 1) / GROUP;
    std::vector<uint8_t> bytes;
    const auto append = [&](const void* p, size_t n) { bytes.insert(bytes.end(), (const uint8_t*)p, (const uint8_t*)p + n); };
    if (format < INT8) {
        for (const float number : random_numbers(tall * height * inputs)) {
            const uint16_t bf16 = float_to_bf16(number), fp16 = (uint16_t)(generator() & 0xbfff);  // up to 2
            append(format == FP32 ? (const void*)&number : format == FP16 ? &fp16 : &bf16, format == FP32 ? 4 : 2);
        }
        return bytes;
    }
    for (size_t part = 0; part < tall; part++) {
        for (size_t i = 0; i < groups * GROUP * height / (format == INT8 ? 1 : 2); i++)
            bytes.push_back((uint8_t)(format == INT8 ? 1 + generator() % 255 : generator() % 256));
        for (const float scale : random_numbers(groups * height)) {
            const uint16_t bf16 = float_to_bf16(scale);
            append(&bf16, 2);
        }
    }
    return bytes;
}

static void compare_products(const std::string& kernels, Format format, Layout layout, int outputs, int inputs) {
    const auto weights = random_weights(format, layout, outputs, inputs);
    for (const int rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 70}) {
        Numbers x = random_numbers((size_t)rows * inputs), found((size_t)rows * outputs), right = found;
        for (float& number : x) {
            if (layout == COLUMNS && (number < 0 || rows % 2)) number = number > 1.2f ? number : 0;  // to be skipped
            if (format == BF16) number = bf16_to_float(float_to_bf16(number));  // some kernels round it
        }
        for (float& number : found) number = NAN;
        wkv_product(kernels.c_str(), format, layout, outputs, inputs, weights.data(), rows, x.data(), found.data(), 2);
        wkv_product("plain", format, layout, outputs, inputs, weights.data(), rows, x.data(), right.data(), 1);
        std::ostringstream what;
        what << kernels << " format " << format << " layout " << layout << " " << outputs << "x" << inputs << " rows " << rows;
        expect_close(found, right, 3e-6, what.str());
        for (int row = 0; row < rows; row++) {
            Numbers alone(outputs);
            wkv_product(kernels.c_str(), format, layout, outputs, inputs, weights.data(), 1, x.data() + row * inputs,
                        alone.data(), 1);
            const Numbers together(found.begin() + row * outputs, found.begin() + (row + 1) * outputs);
            expect_close(together, alone, 0, what.str() + ", alone and together");
        }
    }
}

static void compare_recurrences(const Kernels& kernels, const Kernels& plain, int size) {
    const int tokens = 7, width = 2 * size;
    std::vector<Numbers> in;
    for (int i = 0; i < 18; i++) in.push_back(random_numbers((size_t)tokens * width, 0.5f));
    const auto state = random_numbers((size_t)width * size);
    const auto at = [&](int i) { return in[i].data(); };
    const auto run = [&](const Kernels& with, int which) {
        Numbers y((size_t)tokens * width), after(state.size()), first = in[8], work(SCRATCH_BYTES / 4);
        const Wkv4 s4{tokens, width, at(0), at(1), at(2), at(3), at(4), state.data(), after.data(), y.data(), nullptr};
        const Wkv6 s6{tokens, width, size, at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(9), 1e-5f,
                      state.data(), after.data(), y.data(), nullptr};
        const Wkv7 s7{tokens, width, size, at(0), at(1), at(2), at(3), at(4), at(5), at(6), first.data(), at(7),
                      at(9), at(10), at(11), at(12), at(13), at(14), at(15), 1e-5f, state.data(), after.data(), y.data(), nullptr};
        if (which == 4) with.wkv4(s4, 0, width);
        for (int head = 0; head < 2; head++) {
            if (which == 6) with.wkv6(s6, head, work.data());
            if (which == 7) with.wkv7(s7, head, work.data());
        }
        y.insert(y.end(), after.begin(), after.end());
        return y;
    };
    for (const int which : {4, 6, 7})
        expect_close(run(kernels, which), run(plain, which), 1e-5,
                     std::string(kernels.name) + " wkv" + std::to_string(which) + " heads of " + std::to_string(size));
}

// The state after `count` tokens of a pass must be that of a pass of `count` tokens.
static void compare_replays(const Kernels& kernels, int size) {
    const int tokens = 5, width = 2 * size;
    std::vector<Numbers> in;
    for (int i = 0; i < 18; i++) in.push_back(random_numbers((size_t)tokens * width, 0.5f));
    const auto state = random_numbers((size_t)width * size);
    const auto at = [&](int i) { return in[i].data(); };
    for (const int kept : {KEPT5, KEPT6, KEPT7}) {
        Numbers vectors((size_t)tokens * kept * width), y((size_t)tokens * width), work(SCRATCH_BYTES / 4);
        const auto pass = [&](int count, float* keeps) {
            Numbers after(state.size()), first = in[8];
            const Wkv6 s6{count, width, size, at(0), at(1), at(2), at(3), kept == KEPT6 ? at(4) : nullptr, at(5), at(6),
                          at(7), at(9), 1e-5f, state.data(), after.data(), y.data(), keeps};
            const Wkv7 s7{count, width, size, at(0), at(1), at(2), at(3), at(4), at(5), at(6), first.data(), at(7), at(9),
                          at(10), at(11), at(12), at(13), at(14), at(15), 1e-5f, state.data(), after.data(), y.data(), keeps};
            for (int head = 0; head < 2; head++)
                kept == KEPT7 ? kernels.wkv7(s7, head, work.data()) : kernels.wkv6(s6, head, work.data());
            return after;
        };
        pass(tokens, vectors.data());
        for (int count = 1; count <= tokens; count++) {
            Numbers after(state.size());
            const Replay replay{count, width, size, vectors.data(), kept == KEPT5 ? at(5) : nullptr, state.data(), after.data()};
            for (int head = 0; head < 2; head++)
                kept == KEPT7 ? kernels.replay7(replay, head) : kernels.replay6(replay, head);
            expect_close(after, pass(count, nullptr), 0, std::string(kernels.name) + " replay of " + std::to_string(kept));
        }
    }
}

int main() {
    std::istringstream names(available_kernels());
    std::string name;
    while (names >> name) {
        if (name == "plain") continue;
        for (const int format : {FP32, FP16, BF16, INT8, INT4})
            for (const auto& [outputs, inputs] : {std::pair(1, 1), {5, 7}, {33, 65}, {130, 250}, {300, 2100}, {256, 1024}}) {
                compare_products(name, (Format)format, format < INT8 ? ROWS : BLOCKS, outputs, inputs);
                compare_products(name, (Format)format, COLUMNS, outputs, inputs);
            }
        for (const int size : {16, 64}) {
            compare_recurrences(*find_kernels(name.c_str()), *find_kernels("plain"), size);
            compare_replays(*find_kernels(name.c_str()), size);
        }
        printf("%s: %s\n", name.c_str(), failed ? "differs" : "the same as plain");
    }
    return failed;
}
