// Package webtest tries the page in a real browser: Debian's Chromium, driven by chromedp, without a window. One test is a
// person who has only the page and a running demo; the others show each view with states that are hard to bring about, in
// light, in dark and on a phone, and have axe-core look for what shuts people out. Nothing here is part of the product.
package webtest
