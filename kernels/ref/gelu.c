#include <math.h>
#include "ref.h"

/* GPT-2's tanh form (Hendrycks and Gimpel 2016): 0.5 p (1 + tanh(c (p + a p^3))), c = sqrt(2/pi). */
static const double gelu_c = 0.79788456080286535588;
static const double gelu_a = 0.044715;

double ref_gelu(double p)
{
    return 0.5 * p * (1 + tanh(gelu_c * (p + gelu_a * p * p * p)));
}

double ref_gelu_slope(double p)
{
    double t = tanh(gelu_c * (p + gelu_a * p * p * p));
    return 0.5 * (1 + t) + 0.5 * p * (1 - t * t) * gelu_c * (1 + 3 * gelu_a * p * p);
}
