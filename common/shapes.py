"""The one legend of dimension letters, used by every einops string and every shape annotation.

| letter  | meaning                                   |
|---------|-------------------------------------------|
| `b`     | batch                                     |
| `r`     | rows of media: `b` before beams repeat it |
| `s`     | text tokens (sequence)                    |
| `n`     | visual or audio tokens (keys of attention)|
| `q`     | latent queries                            |
| `m`     | media items (images, videos, clips)       |
| `f`     | frames of one media item                  |
| `h` `g` | query heads, key/value heads              |
| `d`     | model width                               |
| `w`     | width of a foreign context                |
| `e`     | head width                                |
| `v`     | vocabulary                                |
| `c y x` | channels, height and width of an image    |
| `t`     | audio samples                             |
"""
