// y = x W^T (+ bias) for a few rows of x, as steps of decoding have them. Such a product is bound by the reading of W, once, in order.
//
// W is row-major: float32 or bfloat16 [n, k], int8 codes [n, k] with a float32 scale a row, or int4 codes with a bfloat16 scale for each 32
// of a row (uint8 [n, k/2], low half first, value code - 8). Sums are in float32. x in bfloat16 enters products as it is; of other types
// with low-bit W as the sum of two bfloat16 numbers, which leaves an error of 2^-16 of each. Many rows go to torch's product of matrices.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(VLMGRAPH_PORTABLE)
#define WIDE
#include <immintrin.h>
#endif

namespace {

using at::Tensor;
using Bias = std::optional<Tensor>;

constexpr int64_t FEW = 8;         // rows that are not yet a product of matrices
constexpr int64_t STEP = 128;      // x is padded with zeros to a multiple
constexpr int64_t GROUP = 32;      // int4 weights that share a scale
constexpr int64_t BLOCK = 1 << 22; // weights that are turned into numbers at once, for many rows
constexpr int AHEAD = 2048;        // bytes

float widen(uint16_t b) {
  uint32_t u = uint32_t(b) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

uint16_t narrow(float f) { // to the nearest bfloat16, of two the even one
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return (u & 0x7fffffff) > 0x7f800000 ? uint16_t((u >> 16) | 64) : uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

#ifdef WIDE
// ---- AVX-512: pairs of bfloat16 products; codes become bfloat16 by a table of 16, which is exact

using In = uint16_t;
constexpr bool SPLIT = true;

__m512bh load(const uint16_t* p) { return (__m512bh)_mm512_loadu_si512(p); }
void ahead(const void* p) { _mm_prefetch(static_cast<const char*>(p) + AHEAD, _MM_HINT_T0); }

__m512i table(int low, int step) { // of 4 bits, counted from `low`, or signed where it is negative and step is not 1
  alignas(64) uint16_t t[32];
  for (int i = 0; i < 32; i++) {
    int code = i & 15;
    t[i] = narrow(float(step == 1 ? code + low : step * (code < 8 ? code : code - 16)));
  }
  return _mm512_load_si512(t);
}

struct BFloat16 {
  static int64_t place(int64_t i) { return i; }
  const uint16_t* w;
  int64_t k;
  template <int M> void dot(int64_t row, const In* x, int64_t stride, float* y) const {
    constexpr int A = M > 2 ? 1 : 2;
    __m512 sum[M][A];
    for (auto& own : sum)
      for (auto& s : own) s = _mm512_setzero_ps();
    const uint16_t* p = w + row * k;
    int64_t j = 0;
    for (; j + 32 * A <= k; j += 32 * A)
      for (int a = 0; a < A; a++) {
        ahead(p + j + 32 * a);
        __m512bh v = load(p + j + 32 * a);
        for (int m = 0; m < M; m++) sum[m][a] = _mm512_dpbf16_ps(sum[m][a], v, load(x + m * stride + j + 32 * a));
      }
    for (; j < k; j += 32) {
      __mmask32 mask = k - j >= 32 ? ~0u : (1u << (k - j)) - 1;
      __m512bh v = (__m512bh)_mm512_maskz_loadu_epi16(mask, p + j);
      for (int m = 0; m < M; m++) sum[m][0] = _mm512_dpbf16_ps(sum[m][0], v, load(x + m * stride + j));
    }
    for (int m = 0; m < M; m++) y[m] = _mm512_reduce_add_ps(A == 1 ? sum[m][0] : _mm512_add_ps(sum[m][0], sum[m][A - 1]));
  }
};

struct Int8 { // a word is two codes, each 16 high + low: four tables a word, x in even and odd places
  static int64_t place(int64_t i) { return i / 64 * 64 + i % 2 * 32 + i % 64 / 2; }
  const int8_t* w;
  const float* scale;
  int64_t k;
  template <int M> void dot(int64_t row, const In* x, int64_t stride, float* y) const {
    constexpr int A = M == 1 ? 4 : M == 2 ? 2 : 1;
    const __m512i low = table(0, 1), high = table(0, 16);
    __m512 sum[M][A];
    for (auto& own : sum)
      for (auto& s : own) s = _mm512_setzero_ps();
    const int8_t* p = w + row * k;
    for (int64_t j = 0; j < k; j += 64) {
      ahead(p + j);
      __m512i c = k - j >= 64 ? _mm512_loadu_si512(p + j) : _mm512_maskz_loadu_epi8((1ull << (k - j)) - 1, p + j);
      __m512bh parts[4] = {
          (__m512bh)_mm512_permutexvar_epi16(c, low), (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(c, 4), high),
          (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(c, 8), low),
          (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(c, 12), high)};
      for (int m = 0; m < M; m++)
        for (int q = 0; q < 4; q++) sum[m][q % A] = _mm512_dpbf16_ps(sum[m][q % A], parts[q], load(x + m * stride + j + q / 2 * 32));
    }
    for (int m = 0; m < M; m++) {
      for (int a = 1; a < A; a++) sum[m][0] = _mm512_add_ps(sum[m][0], sum[m][a]);
      y[m] = scale[row] * _mm512_reduce_add_ps(sum[m][0]);
    }
  }
};

struct Int4 { // a word is four codes: one table, x by the place in a word; a group is a quarter of the lanes
  static int64_t place(int64_t i) { return i / 128 * 128 + i % 4 * 32 + i % 128 / 4; }
  const uint8_t* w;
  const uint16_t* scale;
  int64_t k, groups;
  template <int M> void dot(int64_t row, const In* x, int64_t stride, float* y) const {
    const __m512i values = table(-8, 1);
    const __m512i lanes = _mm512_set_epi16(3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
    __m512 sum[M][2];
    for (auto& own : sum) own[0] = own[1] = _mm512_setzero_ps();
    const uint8_t* p = w + row * groups * 16;
    const uint16_t* s = scale + row * groups;
    for (int64_t g = 0; g < groups; g += 4) {
      ahead(p + 16 * g);
      bool whole = groups - g >= 4;
      __m512i c = whole ? _mm512_loadu_si512(p + 16 * g) : _mm512_maskz_loadu_epi8((1ull << 16 * (groups - g)) - 1, p + 16 * g);
      __m128i few = whole ? _mm_loadl_epi64((const __m128i*)(s + g)) : _mm_maskz_loadu_epi16((1u << (groups - g)) - 1, s + g);
      __m512 each = _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xAAAAAAAA, lanes, _mm512_castsi128_si512(few)));
      __m512bh parts[4];
      for (int q = 0; q < 4; q++) parts[q] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(c, 4 * q), values);
      for (int m = 0; m < M; m++)
        for (int h = 0; h < 2; h++) {
          const In* v = x + m * stride + 32 * g + 64 * h;
          __m512 d = _mm512_dpbf16_ps(_mm512_setzero_ps(), parts[2 * h], load(v));
          sum[m][h] = _mm512_fmadd_ps(_mm512_dpbf16_ps(d, parts[2 * h + 1], load(v + 32)), each, sum[m][h]);
        }
    }
    for (int m = 0; m < M; m++) y[m] = _mm512_reduce_add_ps(_mm512_add_ps(sum[m][0], sum[m][1]));
  }
};

#else
// ---- any processor: loops that compilers turn into vectors

using In = float;
constexpr bool SPLIT = false;

struct BFloat16 {
  static int64_t place(int64_t i) { return i; }
  const uint16_t* w;
  int64_t k;
  template <int M> void dot(int64_t row, const In* x, int64_t stride, float* y) const {
    for (int m = 0; m < M; m++) {
      const uint16_t* p = w + row * k;
      const In* v = x + m * stride;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < k; j++) sum += widen(p[j]) * v[j];
      y[m] = sum;
    }
  }
};

struct Int8 {
  static int64_t place(int64_t i) { return i; }
  const int8_t* w;
  const float* scale;
  int64_t k;
  template <int M> void dot(int64_t row, const In* x, int64_t stride, float* y) const {
    for (int m = 0; m < M; m++) {
      const int8_t* p = w + row * k;
      const In* v = x + m * stride;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < k; j++) sum += float(p[j]) * v[j];
      y[m] = scale[row] * sum;
    }
  }
};

struct Int4 {
  static int64_t place(int64_t i) { return i / 32 * 32 + i % 2 * 16 + i % 32 / 2; } // even ones of a group, then odd ones
  const uint8_t* w;
  const uint16_t* scale;
  int64_t k, groups;
  template <int M> void dot(int64_t row, const In* x, int64_t stride, float* y) const {
    for (int m = 0; m < M; m++) {
      y[m] = 0;
      for (int64_t g = 0; g < groups; g++) {
        const uint8_t* p = w + (row * groups + g) * 16;
        const In* v = x + m * stride + 32 * g;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int j = 0; j < 16; j++) sum += float(int(p[j] & 15) - 8) * v[j] + float(int(p[j] >> 4) - 8) * v[j + 16];
        y[m] += widen(scale[row * groups + g]) * sum;
      }
    }
  }
};
#endif

struct Float {
  const float* w;
  int64_t k;
  template <int M> void dot(int64_t row, const float* x, int64_t stride, float* y) const {
    const float* p = w + row * k;
    float sum[M][4][16] = {};
    int64_t j = 0;
    for (; j + 64 <= k; j += 64) {
      for (int a = 0; a < 4; a++) __builtin_prefetch(reinterpret_cast<const char*>(p + j + 16 * a) + AHEAD);
      for (int m = 0; m < M; m++)
        for (int a = 0; a < 4; a++)
#pragma omp simd
          for (int l = 0; l < 16; l++) sum[m][a][l] += p[j + 16 * a + l] * x[m * stride + j + 16 * a + l];
    }
    for (int m = 0; m < M; m++) {
      float rest = 0;
      for (int64_t i = j; i < k; i++) rest += p[i] * x[m * stride + i];
      for (int l = 0; l < 16; l++) rest += (sum[m][0][l] + sum[m][1][l]) + (sum[m][2][l] + sum[m][3][l]);
      y[m] = rest;
    }
  }
};

// ---- x in, y out

float number(const Tensor& t, int64_t i) {
  switch (t.scalar_type()) {
    case at::kFloat: return t.const_data_ptr<float>()[i];
    case at::kBFloat16: return widen(static_cast<const uint16_t*>(t.const_data_ptr())[i]);
    case at::kHalf: return float(t.const_data_ptr<at::Half>()[i]);
    default: return float(t.const_data_ptr<double>()[i]);
  }
}

void put(const Tensor& t, int64_t i, float f) {
  switch (t.scalar_type()) {
    case at::kFloat: t.data_ptr<float>()[i] = f; break;
    case at::kBFloat16: static_cast<uint16_t*>(t.data_ptr())[i] = narrow(f); break;
    case at::kHalf: t.data_ptr<at::Half>()[i] = at::Half(f); break;
    default: t.data_ptr<double>()[i] = f;
  }
}

// The rows of x as a kind of weights wants them, `parts` for each.
template <class W, class X> void enter(const X* x, float (*number)(X), int64_t rows, int64_t k, int64_t stride, int parts, In* made) {
  for (int64_t r = 0; r < rows; r++, x += k, made += parts * stride)
    for (int64_t i = 0; i < k; i++) {
      float f = number(x[i]);
      In* to = made + W::place(i);
      if constexpr (SPLIT) {
        *to = narrow(f);
        if (parts == 2) to[stride] = narrow(f - widen(*to));
      } else {
        *to = f;
      }
    }
}

template <class W> std::vector<In> entered(const Tensor& x, int64_t rows, int64_t k, int64_t stride, int parts) {
  std::vector<In> made(rows * parts * stride);
  switch (x.scalar_type()) {
    case at::kBFloat16: enter<W, uint16_t>(static_cast<const uint16_t*>(x.const_data_ptr()), widen, rows, k, stride, parts, made.data()); break;
    case at::kFloat: enter<W, float>(x.const_data_ptr<float>(), [](float f) { return f; }, rows, k, stride, parts, made.data()); break;
    case at::kHalf: enter<W, at::Half>(x.const_data_ptr<at::Half>(), [](at::Half f) { return float(f); }, rows, k, stride, parts, made.data()); break;
    default: enter<W, double>(x.const_data_ptr<double>(), [](double f) { return float(f); }, rows, k, stride, parts, made.data());
  }
  return made;
}

template <class W, class X>
void multiply(const W& w, const X* x, int64_t rows, int parts, int64_t stride, int64_t n, int64_t k, const Bias& bias, const Tensor& y) {
  int64_t count = rows * parts;
  at::parallel_for(0, n, std::max<int64_t>(1, (1 << 15) / k), [&](int64_t begin, int64_t end) {
    float sums[2 * FEW];
    for (int64_t row = begin; row < end; row++) {
      int64_t m = 0;
      for (; m + 4 <= count; m += 4) w.template dot<4>(row, x + m * stride, stride, sums + m);
      for (; m + 2 <= count; m += 2) w.template dot<2>(row, x + m * stride, stride, sums + m);
      for (; m < count; m++) w.template dot<1>(row, x + m * stride, stride, sums + m);
      float b = bias ? number(*bias, row) : 0.f;
      for (int64_t r = 0; r < rows; r++) put(y, r * n + row, (parts == 2 ? sums[2 * r] + sums[2 * r + 1] : sums[r]) + b);
    }
  });
}

template <class W> void few(const W& w, const Tensor& x, int64_t rows, int64_t n, int64_t k, const Bias& bias, const Tensor& y) {
  int64_t stride = (k + STEP - 1) / STEP * STEP;
  int parts = SPLIT && x.scalar_type() != at::kBFloat16 ? 2 : 1;
  std::vector<In> made = entered<W>(x, rows, k, stride, parts);
  multiply(w, made.data(), rows, parts, stride, n, k, bias, y);
}

Bias settled(const Bias& bias) { return bias ? Bias(bias->contiguous()) : bias; }

Tensor shaped(const Tensor& x, int64_t n) {
  auto sizes = x.sizes().vec();
  sizes.back() = n;
  return at::empty(sizes, x.options());
}

bool known(at::ScalarType t) { return t == at::kFloat || t == at::kBFloat16 || t == at::kHalf || t == at::kDouble; }

Tensor linear(const Tensor& x, const Tensor& weight, const Bias& bias) {
  int64_t k = x.size(-1), n = weight.size(0), rows = k ? x.numel() / k : 0;
  auto kind = weight.scalar_type();
  bool ours = (kind == at::kFloat || kind == at::kBFloat16) && x.scalar_type() == kind && weight.is_contiguous() && weight.size(1) == k;
  if (!ours || rows < 1 || rows > FEW || (bias && !known(bias->scalar_type()))) return at::linear(x, weight, bias);
  Tensor in = x.contiguous(), y = shaped(x, n);
  if (kind == at::kFloat)
    multiply(Float{weight.const_data_ptr<float>(), k}, in.const_data_ptr<float>(), rows, 1, k, n, k, settled(bias), y);
  else
    few(BFloat16{static_cast<const uint16_t*>(weight.const_data_ptr()), k}, in, rows, n, k, settled(bias), y);
  return y;
}

// Weights as numbers a block of rows at a time, and torch's product with each.
template <class F> Tensor many(const Tensor& x, int64_t n, int64_t k, const Bias& bias, F numbers) {
  auto kind = x.scalar_type() == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
  Tensor in = x.to(kind), y = shaped(x, n);
  int64_t block = std::min(n, std::max<int64_t>(1, BLOCK / k));
  Tensor weight = at::empty({block, k}, in.options());
  for (int64_t at = 0; at < n; at += block) {
    int64_t count = std::min(block, n - at);
    at::parallel_for(0, count, std::max<int64_t>(1, (1 << 15) / k), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) {
        if (kind == at::kBFloat16)
          numbers(at + r, static_cast<uint16_t*>(weight.data_ptr()) + r * k);
        else
          numbers(at + r, weight.data_ptr<float>() + r * k);
      }
    });
    Bias own = bias ? Bias(bias->narrow(0, at, count).to(kind)) : bias;
    y.narrow(-1, at, count).copy_(at::linear(in, weight.narrow(0, 0, count), own));
  }
  return y;
}

void keep(float f, float* to) { *to = f; }
void keep(float f, uint16_t* to) { *to = narrow(f); }

Tensor linear_int8(const Tensor& x, const Tensor& codes, const Tensor& scale, const Bias& bias) {
  int64_t k = x.size(-1), n = codes.size(0), rows = k ? x.numel() / k : 0;
  TORCH_CHECK(codes.scalar_type() == at::kChar && codes.is_contiguous() && codes.dim() == 2 && codes.size(1) == k, "codes are int8 [n, k]");
  TORCH_CHECK(scale.scalar_type() == at::kFloat && scale.is_contiguous() && scale.numel() == n, "scales are float32 [n]");
  TORCH_CHECK(known(x.scalar_type()), "x is of a floating type");
  const int8_t* w = codes.const_data_ptr<int8_t>();
  const float* s = scale.const_data_ptr<float>();
  if (rows >= 1 && rows <= FEW) {
    Tensor y = shaped(x, n);
    few(Int8{w, s, k}, x.contiguous(), rows, n, k, settled(bias), y);
    return y;
  }
  return many(x, n, k, bias, [=](int64_t row, auto* to) {
    for (int64_t j = 0; j < k; j++) keep(float(w[row * k + j]) * s[row], to + j);
  });
}

Tensor linear_int4(const Tensor& x, const Tensor& codes, const Tensor& scale, const Bias& bias) {
  int64_t k = x.size(-1), n = codes.size(0), rows = k ? x.numel() / k : 0, groups = (k + GROUP - 1) / GROUP;
  TORCH_CHECK(codes.scalar_type() == at::kByte && codes.is_contiguous() && codes.dim() == 2 && codes.size(1) == groups * 16,
              "codes are uint8 [n, 16 for each 32 of k]");
  TORCH_CHECK(scale.scalar_type() == at::kBFloat16 && scale.is_contiguous() && scale.numel() == n * groups,
              "scales are bfloat16 [n, k / 32]");
  TORCH_CHECK(known(x.scalar_type()), "x is of a floating type");
  const uint8_t* w = codes.const_data_ptr<uint8_t>();
  const uint16_t* s = static_cast<const uint16_t*>(scale.const_data_ptr());
  if (rows >= 1 && rows <= FEW) {
    Tensor y = shaped(x, n);
    few(Int4{w, s, k, groups}, x.contiguous(), rows, n, k, settled(bias), y);
    return y;
  }
  return many(x, n, k, bias, [=](int64_t row, auto* to) {
    for (int64_t g = 0; g < groups; g++) {
      const uint8_t* p = w + (row * groups + g) * GROUP / 2;
      const float own = widen(s[row * groups + g]);
      float made[GROUP];
      for (int j = 0; j < GROUP / 2; j++) {
        made[2 * j] = float(int(p[j] & 15) - 8) * own;
        made[2 * j + 1] = float(int(p[j] >> 4) - 8) * own;
      }
      for (int64_t j = 0; j < std::min<int64_t>(GROUP, k - g * GROUP); j++) keep(made[j], to + g * GROUP + j);
    }
  });
}

} // namespace

TORCH_LIBRARY_IMPL(vlmgraph, CPU, m) {
  m.impl("linear", linear);
  m.impl("linear_int8", linear_int8);
  m.impl("linear_int4", linear_int4);
}
